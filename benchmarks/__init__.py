"""Measurements of squeezebert_fast against its references and peers. See README.md."""
