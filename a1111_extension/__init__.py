"""Host: AUTOMATIC1111, Forge and reForge. The only room that imports `modules.*`, `gradio` or `backend.*`.

script               the host's hooks, in the order they are called
table                the panel's fields: one table, made from the settings' descriptions
settings             the panel's values and their recipe
controls, panel      what the user sees in txt2img and img2img
tab, tab_*, pages    the tab, a file for each of its pages, and pieces of HTML
planned, options     what the host's own controls and settings say
infotext, xyz        the values in a picture's infotext and in an X/Y/Z plot
lifecycle, bracket   on the U-Net for one pass, off again whatever happens
sampler, noise       what a pass's sampler and model say of its calls
control              Forge's ControlNet, which a skipped call skips
model_files          files in the web UI's models folder
model_facts          what they are for, and whether they fit the loaded model
results, history     what a picture and the tab say of what was done
"""
