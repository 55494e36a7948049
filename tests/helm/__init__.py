"""Tests of what puts the service on Kubernetes: the image and the chart."""
