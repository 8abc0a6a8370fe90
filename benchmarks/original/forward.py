"""Times the forward pass of the original network, in its own folder and with its own PyTorch.

    PYTHON forward.py FOLDER ARCHITECTURE CLASSES IMAGE_SIZE BATCH DEVICE

The form without auxiliary heads, batch normalisation and branches folded, random weights, raw predictions, channels
last: on a GPU fp16 and `torch.compile`, on a CPU fp32. The last line is JSON.
"""

import json
import os
import sys
import time

import torch

REPEATS, SECONDS = 5, 0.1


def main() -> None:
    folder, architecture, classes, image_size, batch, device = sys.argv[1:]
    os.chdir(folder)
    sys.path.insert(0, folder)
    from models.yolo import Model

    torch.set_grad_enabled(False)
    torch.backends.cudnn.benchmark = True
    gpu = device != 'cpu'
    dtype = torch.float16 if gpu else torch.float32
    network = Model(f'cfg/deploy/{architecture}.yaml', nc=int(classes)).eval().fuse()
    network.model[-1].training = True  # the head returns raw predictions
    network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    images = torch.rand(int(batch), 3, int(image_size), int(image_size), dtype=dtype, device=device)
    images = images.to(memory_format=torch.channels_last)
    forward = torch.compile(network) if gpu else network
    wait = torch.cuda.synchronize if gpu else lambda: None
    seconds = _seconds(lambda: forward(images), wait)
    result = {
        'images_per_second': int(batch) / seconds,
        'parameters': sum(leaf.numel() for leaf in network.parameters()),
        'dtype': str(dtype).removeprefix('torch.'),
        'compiled': gpu,
        'torch': torch.__version__,
    }
    print(json.dumps(result))


def _seconds(call, wait):
    """Time of a call in the best of some runs of many; the first calls do not count."""
    for _ in range(3):
        call()
    wait()
    count = max(1, round(SECONDS / _timed(call, wait, 1)))
    return min(_timed(call, wait, count) for _ in range(REPEATS))


def _timed(call, wait, count):
    start = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - start) / count


main()
