"""LoDoPaB-CT's scale: attenuation in 1/m, divided by that of 3071 HU (technical reference, arXiv 1910.01113)."""

MU_WATER = 20.0
"""Attenuation of water, 1/m."""

MU_AIR = 0.02
"""Attenuation of air, 1/m."""

MU_PER_HU = (MU_WATER - MU_AIR) / 1000.0
"""What one HU adds to the attenuation, 1/m."""

MAX_HU = 3071.0
"""The HU that become 1."""

MU_MAX = MAX_HU * MU_PER_HU + MU_WATER
"""Attenuation at 3071 HU, 81.35858 per metre: 1 in LoDoPaB-CT."""
