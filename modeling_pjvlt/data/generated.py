"""Names that stand for datasets whose samples are generated while training or evaluating."""

PROCEDURAL, PHOTOGRAPHS, BOXED_IMAGES = "procedural", "photographs", "boxed_images"
GENERATED = {PROCEDURAL, PHOTOGRAPHS, BOXED_IMAGES}
