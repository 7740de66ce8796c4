"""Generated from protos/inference."""
