"""Host: AUTOMATIC1111, Forge and reForge. The only room that imports `modules.*`, `gradio` or `backend.*`.

script      the panel's life in a job: what the host calls, in order
panel, tab  what the user sees; settings is the panel's values, independent of any host
lifecycle   on the U-Net for one pass, off again whatever happens
"""
