"""Tasks of the library reasoning-gym (optional extra): their problems as rows, their scorers as a reward."""
