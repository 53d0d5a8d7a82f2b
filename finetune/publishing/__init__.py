"""Out of the house: model card, push, channels, export."""
