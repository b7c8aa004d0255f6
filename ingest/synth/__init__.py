"""Makes labelled synthetic clips: photographed faces that are animated by action units."""
