"""How each running sequence samples: a table by row, on the device, that all backends read."""

import struct

import torch

from engine.config import Sampling

NUM_CODEBOOKS = 16
# A row: temperature, top_k and top_p of talker and predictor, penalty, ignore_eos and the seed; in
# 32-bit words: 0, 2, 4, 6, 7 and 8.
ROW = struct.Struct("<2f 2i 2f f ?3x Q")
TALKER, PREDICTOR = 0, 1


class SamplingTable:
    """Sampling parameters of R rows. Column 0 is the talker's, 1 the code predictor's.

    temperature [R, 2] float32 (0: greedy), top_k [R, 2] int32 (<= 0: off), top_p [R, 2] float32,
    penalty [R] float32, seeds [R] int64, ignore_eos [R] bool: views of one packed tensor. A row
    never set is greedy.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.packed = torch.zeros(num_rows, ROW.size // 8, dtype=torch.int64, device=device)
        self.words, floats = self.packed.view(torch.int32), self.packed.view(torch.float32)
        self.temperature, self.top_k, self.top_p = floats[:, :2], self.words[:, 2:4], floats[:, 4:6]
        self.penalty, self.ignore_eos = floats[:, 6], self.packed.view(torch.bool)[:, 28]
        self.seeds = self.packed[:, 4]
        self.penalty.fill_(1)
        self.top_p.fill_(1)

    def set(self, row: int, s: Sampling) -> None:
        """Fill one row: on a GPU a single copy, in the order of the device's work."""
        packed = ROW.pack(
            *(s.temperature, s.subtalker_temperature),
            *(max(0, min(k, 2**31 - 1)) for k in (s.top_k, s.subtalker_top_k)),
            *(s.top_p, s.subtalker_top_p, s.repetition_penalty),
            s.ignore_eos,
            s.seed % 2**64,
        )
        host = torch.frombuffer(bytearray(packed), dtype=torch.int64)
        if self.packed.is_cuda:
            host = host.pin_memory()
        self.packed[row].copy_(host, non_blocking=True)
