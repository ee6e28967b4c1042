"""What runs on the device: steps of the talker and the code predictor, the codec stage, the voice
encoder, CUDA graphs. `own_talker` puts a scheduler before it.

May import: scheduler, loader, models, layers, kernels and the seam.
"""
