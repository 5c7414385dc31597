"""The room of `picolab watch`: campaigns that begin by themselves."""
