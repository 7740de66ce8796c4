"""Bulk jobs without a server: a bundle that answers in this process (`latentserve embed ... --bundle FOLDER`)."""
