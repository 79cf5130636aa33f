//! Configs that no spec can be made of: the text names the field.
