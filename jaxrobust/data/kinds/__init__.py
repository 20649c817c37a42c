"""The kinds of data source: one file for each way in which images can be given."""
