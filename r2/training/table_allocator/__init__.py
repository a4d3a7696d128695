"""The paper's allocator, a language model that names a model, learned on tables of recorded answers."""
