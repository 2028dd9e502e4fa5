"""One torch thread, and double precision by explicit dtype: small batched operations are slower and noisier on several threads."""

import torch

torch.set_num_threads(1)
