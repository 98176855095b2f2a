"""Tool calls as models write them: one file per format, a reader and a grammar for each."""
