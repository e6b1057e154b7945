"""Images beside texts: ALBEF, CLIP, CLIPScore, and the images and captions that they read."""
