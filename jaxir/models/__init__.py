"""The encoders and the dual encoder, with their weights in and out of Hugging Face folders."""
