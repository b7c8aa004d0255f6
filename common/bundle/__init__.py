"""A trained model as a folder: `bundle.json` and `*.safetensors`, every byte checked before anything is used."""
