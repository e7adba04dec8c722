"""The only home of container versions: what runs in a SageMaker job, and so on the laptop.

Source: AWS's list of Hugging Face deep learning containers, November 2026.
"""

# The Hugging Face training container; a GPU image, as all training images of this family are.
TRAINING_IMAGE_TAG = "2.9.0-transformers5.3.0-gpu-py312-cu130-ubuntu22.04"

# What that container holds, and what requirements.txt therefore pins.
TRAINING_PACKAGES = {
    "transformers": "5.3.0",
    "datasets": "4.5.0",
    "accelerate": "1.12.0",
    "evaluate": "0.4.6",
    "huggingface_hub": "1.10.0",
}
