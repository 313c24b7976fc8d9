"""Makes the recordings beside this file: three seconds of moving stripes in VP8, one of 440 Hz in Opus."""

import fractions
import pathlib

import av
import numpy as np

HERE = pathlib.Path(__file__).parent
WIDTH, HEIGHT, FPS, SECONDS = 160, 120, 10, 3

with av.open(str(HERE / "stripes.ivf"), "w", format="ivf") as file:
    stream = file.add_stream("libvpx", rate=FPS)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    # One key frame a second: whoever joins late waits no longer than that.
    stream.codec_context.gop_size = FPS
    stream.options = {"deadline": "realtime", "lag-in-frames": "0", "b": "150k"}
    for number in range(FPS * SECONDS):
        pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
        pixels[:, (np.arange(WIDTH) // 16 + number) % 2 == 0] = 235
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = number, fractions.Fraction(1, FPS)
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))

with av.open(str(HERE / "tone.ogg"), "w", format="ogg", options={"page_duration": "20000"}) as file:
    stream = file.add_stream("libopus", rate=48_000, layout="mono")
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)).astype(np.int16)
    for start in range(0, 48_000, 960):
        frame = av.AudioFrame.from_ndarray(tone[start : start + 960].reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, start
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))
