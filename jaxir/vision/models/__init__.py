"""ViT, CLIP and ALBEF, with their weights in and out of Hugging Face folders."""
