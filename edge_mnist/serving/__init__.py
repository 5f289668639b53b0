"""The server: FastAPI, uvicorn and prometheus_client live here and nowhere else."""
