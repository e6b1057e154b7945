"""CLIPScore and RefCLIPScore of captions, by CLIP or by a trained ALBEF."""
