//! Selection and emission over small modules made by hand.
