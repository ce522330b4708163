"""muflow: a batch scanner for synthetic face pictures, trained on real faces only (µFlow, arXiv 2606.30528).

Shape legend used in every docstring: B pictures, V views, C channels, H W height and width, D dimensions,
K mixture components, S scales, N pictures per average, M averages, P grid positions.
"""

__version__ = "0.1.0"
