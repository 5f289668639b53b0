"""Time the exported page in Chromium: the first answer on a slow line, and each drawn answer.

    python benchmarks/time_page.py [--model default]

The browser simulates the line, with the numbers of "Fast 3G" in its tools: 180,000 bytes/s and
562.5 ms for each request. The cache is off. Time counts from the navigation to the answer to an
example that is drawn as soon as the page is ready. Beside the page of one file stands the same page
with onnxruntime-web (``--runtime ort``). A drawn answer is picture path and network in WebAssembly,
for a drawing of 200 x 200.
"""

import argparse
import base64
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edge_mnist.exporting.c.data import write_data
from edge_mnist.exporting.c.layers import read_network
from edge_mnist.exporting.golden import draw_digit
from edge_mnist.exporting.web import PAGE, choose_model, export_web
from edge_mnist.model_file import read_model

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import serve
from page_driver import Page

LATENCY_MS, BYTES_PER_S = 562.5, 180_000
N_ANSWERS = 300


def time_first_answer(page: Page, url: str) -> float:
    """Return the seconds from an empty tab to an answer."""

    def slow_down() -> None:
        page.call("Network.setCacheDisabled", cacheDisabled=True)
        page.call("Network.setBypassServiceWorker", bypass=True)  # it keeps the page, too
        page.set_network(latency_ms=LATENCY_MS, bytes_per_s=BYTES_PER_S)

    page.open_tab()
    slow_down()
    start = time.perf_counter()
    page.call("Page.navigate", url=url)
    page.wait_for("document.getElementById('answer')?.dataset.status === 'empty'", within_s=600)
    page.run("document.querySelector('.example').click()")
    page.wait_for_digit("2")
    return time.perf_counter() - start


def time_answers(page: Page, address: str, network: bytes) -> tuple[float, float]:
    """Return the median milliseconds of picture path and network."""
    picture = np.asarray(draw_digit(3, np.random.default_rng(0), side_px=200))
    height, width = picture.shape
    encode = {"grey": picture.tobytes(), "network": network}
    data = {name: base64.b64encode(content).decode() for name, content in encode.items()}
    page.open(address + "index.html")
    read_ms, network_ms = page.run(f"""(async () => {{
        const decode = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
        const {{ openWasm }} = await import("./wasm.js");
        const bytes = await (await fetch("edge_mnist.wasm")).arrayBuffer();
        const wasm = await openWasm(bytes, decode("{data["network"]}"));
        const grey = {{ height: {height}, width: {width}, data: decode("{data["grey"]}") }};
        const times = [[], []];
        for (let i = 0; i < {N_ANSWERS}; i++) {{
            const start = performance.now();
            const {{ image }} = wasm.read(grey, "digit");
            const middle = performance.now();
            wasm.computeLogits(image);
            times[0].push(middle - start);
            times[1].push(performance.now() - middle);
        }}
        return times;
    }})()""")
    return statistics.median(read_ms), statistics.median(network_ms)


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Page(Path(name) / "profile") as page:
        for runtime in ("wasm", "ort"):
            folder = Path(name) / runtime
            result = export_web(given.model, folder, runtime=runtime)
            with serve(folder) as address:
                times = [time_first_answer(page, address) for _ in range(given.repeats)]
            seconds = statistics.median(times)
            print(f"{runtime}: {result.size_bytes:,} bytes, first answer after {seconds:.1f} s")
        network = write_data(read_network(read_model(choose_model(given.model))))
        page.open_tab()
        with serve(PAGE) as address:
            read_ms, network_ms = time_answers(page, address, network)
        total_ms = read_ms + network_ms
        print(f"drawn answer: {total_ms:.2f} ms (path {read_ms:.2f}, network {network_ms:.2f})")


if __name__ == "__main__":
    main()
