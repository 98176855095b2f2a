"""One model on several ranks: who has which part, and how the parts become whole again."""
