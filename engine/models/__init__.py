"""The nets, in plain torch: talker, code predictor, codec decoder and encoder, speaker encoder.

May import: layers and the seam. Tensors only: no sequences.
"""
