"""Kubernetes' autoscaler on simulated replicas, whose batches take as long as measured ones.

replicas     batches of one replica in virtual time     autoscaler   what the HorizontalPodAutoscaler decides
fleet        load, replicas and autoscaler together     __main__     policies side by side, table and plot
"""
