"""MacDonald, Valmadre, Saratchandran, Lucey: On skip connections and normalisation layers in deep optimisation, NeurIPS 2023."""
