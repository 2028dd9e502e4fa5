"""Loss topology measured: certified critical points, Betti numbers of sublevel sets, and the small losses on which both are taken."""
