/* A fixture of tools/check_layers. */
