"""Sharing: model folders, the Hugging Face Hub, the demo, exports."""
