"""`bench --serve`: a load of many clients on an OpenAI-compatible server, beside what is predicted of it. May import
everything but server and command line."""
