"""Many pictures on many cores or machines, by Ray Data; ray and pyarrow live here."""
