"""The disk tier of the output cache: `codec` turns outputs into bytes and back, `disk` keeps the files."""
