"""Replicas on the nodes of a Ray cluster, behind this process's one endpoint (`--ray`).

Ray Serve places the replicas, counts and watches them; what a request needs to outlive its replica
is here, in the front end (`client`).
"""
