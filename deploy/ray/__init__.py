"""Ray Serve: see serve_app.py."""
