"""Rendered RGB-D scenes: perspective views with exact inverse depth, textured with photos, made from a seed.

The compact depth net is trained on these scenes and on RGB-D photos, which show interiors alone. They show streets,
fields, corridors, rooms, table tops and close-ups, with ridges, boxes, spheres, pillars and upright cut-outs.
They are not meant to look real; they are meant to have the depth cues of photos: texture that shrinks with distance,
occlusion, receding ground, shading, contact shadows, haze, blurred backgrounds.

Conventions: the camera is at the origin, x right, y down, z forward, lengths in units of about a metre. The ray of a
pixel has z = 1, so the point seen along it is ray * z and its inverse depth is 1/z; the sky has inverse depth 0.
"""

from ssr_jax.data.scenes.canvas import Camera, Canvas
from ssr_jax.data.scenes.scene import render_scene
from ssr_jax.data.scenes.textures import Paint, Texture

__all__ = ['Camera', 'Canvas', 'Paint', 'Texture', 'render_scene']
