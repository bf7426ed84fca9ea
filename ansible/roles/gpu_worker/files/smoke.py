"""Encodes one silent window on a GPU: smoke.py MODEL_FOLDER NUMBER_OF_THE_GPU; exit status 1 where that fails."""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from faster_whisper import WhisperModel

folder, number = sys.argv[1:]
model = WhisperModel(folder, device="cuda", device_index=int(number), local_files_only=True)
mels = model.feature_extractor(np.zeros(16000, np.float32)).shape[0]
encoded = model.encode(np.zeros((1, mels, 3000), np.float32))
print(f"GPU {number}: one window encoded, {encoded.shape}")
