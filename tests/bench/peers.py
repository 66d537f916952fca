#!/usr/bin/env python3
"""PyTorch's attention on the shapes of attention_cuda_bench, on the same GPU in the same run.

    peers.py [--rest=MS] [BENCH_OUTPUT]   with the bench's output, ratios to it are printed too

32 query heads on 8 KV heads, head_dim 128, bf16, causal; keys and values contiguous (PyTorch has no
pool of blocks here). Backends: cuDNN and flash (FlashAttention-2). Times are medians of CUDA graph
replays, buffers rotated past the L2 for decode.
"""
import re
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
REST_MS = int(([a[7:] for a in sys.argv if a.startswith("--rest=")] or ["0"])[0])
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def measure(calls):
    """Median microseconds of one call, all of them replayed as one graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls[:3]:
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    times = []
    for _ in range(9):
        time.sleep(REST_MS / 1000)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / len(calls))
    return sorted(times[2:])[3]


def tensors(batch, q_len, kv_len):
    def make(heads, length):
        return torch.randn(batch, length, heads, HEAD_DIM, device="cuda",
                           dtype=torch.bfloat16).transpose(1, 2)
    return make(HEADS, q_len), make(KV_HEADS, kv_len), make(KV_HEADS, kv_len)


def attempt(backend, calls):
    try:
        with sdpa_kernel(BACKENDS[backend]):
            return measure(calls)
    except RuntimeError as error:
        print(f"    {backend}: {str(error).splitlines()[0][:100]}")
        return None


def ours(path):
    """Name of a line -> its first figure."""
    figures = {}
    for line in open(path) if path else []:
        match = re.match(r" +(\d+ x +\d+k?) +(\d+\.?\d*)", line)
        if match:
            figures[re.sub(r"\s+", " ", match[1])] = float(match[2])
    return figures


def report(name, unit, results, mine):
    text = "  ".join(f"{b} {v:7.1f}" + (f" (ours {mine / v:.3f})" if mine else "")
                     for b, v in results.items() if v)
    print(f"  {name:12} {unit}: {text}", flush=True)


def main():
    paths = [a for a in sys.argv[1:] if not a.startswith("--")]
    figures = ours(paths[0] if paths else None)
    print("prefill, causal")
    for length in (1024, 2048, 4096, 8192, 16384, 32768):
        batch = max(16384 // length, 1)
        q, k, v = tensors(batch, length, length)
        flops = 2.0 * batch * length * length * HEADS * HEAD_DIM
        results = {}
        for backend in BACKENDS:
            us = attempt(backend, [lambda: sdpa(q, k, v, is_causal=True, enable_gqa=True)] *
                         (4 if length > 16384 else 10))
            results[backend] = flops / us / 1e6 if us else None
        name = f"{batch} x {length}"
        report(name, "TFLOP/s", results, figures.get(name))
    print("decode, one query")
    for name, batch, length in (("1 x 8k", 1, 8192), ("1 x 32k", 1, 32768),
                                ("1 x 128k", 1, 131072), ("8 x 8k", 8, 8192),
                                ("32 x 1k", 32, 1024), ("32 x 8k", 32, 8192),
                                ("64 x 2k", 64, 2048), ("256 x 1k", 256, 1024),
                                ("64 x 8k", 64, 8192)):
        size = batch * length * 2 * KV_HEADS * HEAD_DIM * 2
        sets = [tensors(batch, 1, length) for _ in range(max(1, min(16, int(512e6 / size))))]
        results = {}
        for backend in BACKENDS:
            calls = [lambda s=sets[i % len(sets)]: sdpa(*s, enable_gqa=True)
                     for i in range(max(len(sets), 8))]
            us = attempt(backend, calls)
            results[backend] = size / us / 1e3 if us else None
        report(name, "GB/s", results, figures.get(name))


main()
