"""Shares trained models: export, model folders, the Hugging Face Hub, model cards, and the demo page."""
