"""What runs the service beside others: images, Prometheus, Grafana, Envoy, Kubernetes; and what is generated of it."""
