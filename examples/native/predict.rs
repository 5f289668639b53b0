//! Reads PGM files: predict FILE...
//!
//!     rustc --edition 2021 -O predict.rs -L PREFIX/lib -o predict
//!
//! Prints for each its class, or "rejected: " and the reason, and the confidence.
use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_void};
use std::process::ExitCode;

#[repr(C)]
#[derive(Default)]
struct Prediction {
    label: i32,
    confidence: i32,
    reason: i32,
}

#[link(name = "edge_mnist")]
extern "C" {
    fn edge_mnist_predict_scratch_size(width: c_int, height: c_int) -> usize;
    fn edge_mnist_predict(
        grey: *const u8,
        width: c_int,
        height: c_int,
        stride: c_int,
        prediction: *mut Prediction,
        scratch: *mut c_void,
        scratch_size: usize,
    ) -> c_int;
    fn edge_mnist_class_name(label: c_int) -> *const c_char;
    fn edge_mnist_reason_name(reason: c_int) -> *const c_char;
}

/// Read a picture of `width` columns; each row of `grey` follows the one before.
fn predict(grey: &[u8], width: usize) -> Result<Prediction, String> {
    let height = if width > 0 { grey.len() / width } else { 0 };
    let sides = c_int::try_from(width).and_then(|w| Ok((w, c_int::try_from(height)?)));
    let (width, height) = sides.map_err(|error| error.to_string())?;
    let mut scratch = vec![0u8; unsafe { edge_mnist_predict_scratch_size(width, height) }];
    let mut found = Prediction::default();
    let error = unsafe {
        edge_mnist_predict(
            grey.as_ptr(),
            width,
            height,
            width,
            &mut found,
            scratch.as_mut_ptr().cast(),
            scratch.len(),
        )
    };
    if error == 0 { Ok(found) } else { Err(format!("error {error}")) }
}

fn name(found: &Prediction) -> String {
    let (text, prefix) = if found.label < 0 {
        (unsafe { edge_mnist_reason_name(found.reason) }, "rejected: ")
    } else {
        (unsafe { edge_mnist_class_name(found.label) }, "")
    };
    format!("{prefix}{}", unsafe { CStr::from_ptr(text) }.to_string_lossy())
}

/// Return the levels and the width of a PGM file.
fn read_pgm(path: &str) -> Result<(Vec<u8>, usize), String> {
    let content = std::fs::read(path).map_err(|error| error.to_string())?;
    let (mut words, mut at) = (Vec::new(), 0);
    while words.len() < 4 {
        let length = content[at..]
            .iter()
            .position(u8::is_ascii_whitespace)
            .ok_or("the file is cut")?;
        words.push(String::from_utf8_lossy(&content[at..at + length]).into_owned());
        at += length + 1;
    }
    let sides = (words[1].parse::<usize>(), words[2].parse::<usize>());
    match (words[0].as_str(), sides, words[3].as_str()) {
        ("P5", (Ok(width), Ok(height)), "255") if content.len() - at == width * height => {
            Ok((content[at..].to_vec(), width))
        }
        _ => Err("no PGM file of 8 bits".to_string()),
    }
}

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for path in std::env::args().skip(1) {
        match read_pgm(&path).and_then(|(grey, width)| predict(&grey, width)) {
            Ok(found) => println!("{} {:.4}", name(&found), f64::from(found.confidence) / 65536.0),
            Err(error) => {
                eprintln!("{path}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
