"""Models: bundles verified and loaded, their queues, rows decoded, scores decided on."""
