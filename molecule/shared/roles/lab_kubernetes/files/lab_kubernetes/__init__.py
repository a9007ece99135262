"""A stand-in for a Kubernetes cluster. It speaks the part of the API that hpchub uses, and it really runs the pods.

It is not Kubernetes. It follows the published documents, whose sections the modules name, and was never compared with a
real cluster. Standard library only (Python 3.11 and later).
"""
