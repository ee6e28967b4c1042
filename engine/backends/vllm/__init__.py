"""The talker on vLLM. No file outside this folder imports vllm or transformers.

vLLM runs the talker's decoder layers: attention, KV blocks, tensor parallel, quantisation. The rest
of a frame is ours, inside the model class that vLLM loads: what enters the layers at a position
(feedback.py) and, where vLLM asks for logits, the frame that comes out: codebook 0 drawn by our
sampler, and the code predictor's 15 codes. vLLM is told codebook 0 as the only possible token.

plugin     what vLLM loads in every process of its own: configuration class and model class
model      the model class                  worker      what we call in every such process
runner_v1, runner_v2    which row each request of vLLM's batch has, for either of its runners
options    EngineConfig to vLLM's arguments, and what is refused
prompt_ids what vLLM's prefix cache may take for equal
talker     the TalkerEngine: admission, requests, frames
"""
