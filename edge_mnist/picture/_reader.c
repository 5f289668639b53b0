/* The Python module around reader.c, for any CPython from 3.11 on. */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>

#include "reader.h"

static int check_buffers(const Py_buffer *grey, const Py_buffer *image) {
    if (grey->ndim != 2 || grey->itemsize != 1 || grey->strides[1] != 1 || grey->shape[0] < 1 ||
        grey->shape[1] < 1 || grey->shape[0] > EDGE_MNIST_MAX_PICTURE_SIDE_PX ||
        grey->shape[1] > EDGE_MNIST_MAX_PICTURE_SIDE_PX || grey->strides[0] < INT_MIN ||
        grey->strides[0] > INT_MAX) {
        PyErr_SetString(PyExc_ValueError,
                        "expected grey levels, shape (H, W), of bytes, rows contiguous");
        return 0;
    }
    if (image->len != EDGE_MNIST_SIDE_PX * EDGE_MNIST_SIDE_PX) {
        PyErr_SetString(PyExc_ValueError, "expected an image of 28 x 28 bytes");
        return 0;
    }
    return 1;
}

static PyObject *read_checked(const Py_buffer *grey, const Py_buffer *image, int framing) {
    int width = (int)grey->shape[1], height = (int)grey->shape[0], stride = (int)grey->strides[0];
    size_t size = edge_mnist_scratch_size(width, height);
    void *scratch = PyMem_Malloc(size);
    edge_mnist_answer answer;
    int error;
    if (!scratch) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    error = edge_mnist_read_framed(grey->buf, width, height, stride, framing, &answer, scratch, size);
    Py_END_ALLOW_THREADS
    PyMem_Free(scratch);
    if (error) return PyErr_Format(PyExc_ValueError, "the picture path returned error %d", error);
    for (size_t i = 0; i < sizeof answer.image; i++) ((uint8_t *)image->buf)[i] = answer.image[i];
    return PyLong_FromLong(answer.reason);
}

static PyObject *read_grey(PyObject *module, PyObject *args) {
    PyObject *grey_object, *image_object, *result = NULL;
    Py_buffer grey, image;
    int framing;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOi", &grey_object, &image_object, &framing)) return NULL;
    if (PyObject_GetBuffer(grey_object, &grey, PyBUF_STRIDES)) return NULL;
    if (!PyObject_GetBuffer(image_object, &image, PyBUF_WRITABLE)) {
        if (check_buffers(&grey, &image)) result = read_checked(&grey, &image, framing);
        PyBuffer_Release(&image);
    }
    PyBuffer_Release(&grey);
    return result;
}

static PyMethodDef methods[] = {
    {"read_grey", read_grey, METH_VARARGS,
     "read_grey(grey, image, framing): fill the image, 28 x 28, and return the reason's number."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_reader", "The picture path in C.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__reader(void) { return PyModuleDef_Init(&definition); }
