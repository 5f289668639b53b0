"""A digit reader behind HTTP: ``fastapi run fastapi_app.py``, then POST a picture to /predict."""

from typing import Any

from fastapi import Body, FastAPI, HTTPException

from edge_mnist import PictureError, Predictor

app = FastAPI()
predictor = Predictor()  # one for all requests: it may be shared by threads


@app.post("/predict")
def predict(picture: bytes = Body(media_type="image/*")) -> dict[str, Any]:
    """Read the digit in the picture that is the body of the request."""
    try:
        seen = predictor.predict(picture)
    except PictureError as error:
        raise HTTPException(422, str(error)) from error
    return {
        "status": seen.status,
        "digit": seen.digit,
        "confidence": seen.confidence,
        "reason": seen.reason,
    }
