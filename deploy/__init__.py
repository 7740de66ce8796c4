"""Deployment: images, Prometheus, Grafana, Envoy and Kubernetes, and the files that are generated for them."""
