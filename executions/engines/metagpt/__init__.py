"""The metagpt engine. `framework` imports MetaGPT; everything else here is plain Python."""
