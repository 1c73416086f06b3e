"""Tables, figures and the sentences below them, made from records of results."""
